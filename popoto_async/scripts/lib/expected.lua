-- purpose: what a save was planned on, and what stands there instead
-- defines: row_of, has_moved, found_owner
-- include: lib/places.lua
-- include: lib/lists.lua
-- include: lib/writes.lua

local function row_of(model, key)
  local row = redis.call('HMGET', key, cmsgpack.unpack(model.fields))
  if model.lists then
    read_lists(model, {cmsgpack.unpack(model.fields)}, key, row)
  end
  return row
end

-- Fields whose stored values the plan was built on, though it doesn't write them.
local function has_moved(op, key, at)
  for i, name in ipairs(op.expect) do
    if redis.call('HGET', key, name) ~= (op.present[i] == 1 and ARGV[at + i] or false) then
      return true
    end
  end
  return false
end

-- The living owner of the claim that a new record would have in a slot.
local function found_owner(model, entries, slot)
  for i = 1, #entries, 3 do
    local _, hash = place(model, entries, i)
    local owner = entries[i] == slot and run('HGET', hash, entries[i + 1])
    if owner and redis.call('EXISTS', owner) == 1 then
      return owner
    end
  end
end
