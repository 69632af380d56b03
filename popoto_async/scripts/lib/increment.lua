-- purpose: the value an increment arrives at, and the entries that wait for it
-- defines: computed_entries, incremented
-- include: lib/decimal.lua

-- The entries with the value wherever they wait for it.
local function computed_entries(op, entries, value)
  -- Adding 0 makes 0 of -0, which equals it.
  local score = float_text(tonumber(value) + 0)
  local exact = decimal.compare(score, value) == 0
  local token = op.add.float and score or decimal.token(value)
  local placed = {}
  for i = 1, #entries, 3 do
    if entries[i + 2] ~= '\2' or not exact then
      local waiting = entries[i + 2] == '\1' or entries[i + 2] == '\2'
      placed[#placed + 1] = entries[i]
      placed[#placed + 1] = (entries[i + 1]:gsub('\1', function() return token end))
      placed[#placed + 1] = waiting and score or entries[i + 2]
    end
  end
  return placed
end

local function incremented(op, key)
  local stored = redis.call('HGET', key, op.add.field) or '0'
  if op.add.float then
    local number = tonumber(stored)
    local sum = number and number + tonumber(op.add.by)
    return sum and sum - sum == 0 and float_text(sum)
  end
  return decimal.add(stored, op.add.by)
end
