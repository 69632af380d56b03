-- purpose: taking values from the lists of an index as their last records leave
-- defines: has_value, unlist_value
-- include: lib/tails.lua
-- include: lib/writes.lua

local function remove(key, text)
  if key and run('ZREM', key, text) == 1 then
    undo[#undo + 1] = {'ZADD', key, '0', text}
  end
end

-- Whether an index has records under a text.
local function has_text(model, slot, text)
  local key = model.places[slot + 1]
  if not (model.kinds and model.kinds[slot]) then
    return redis.call('EXISTS', key .. text) == 1
  end
  return redis.pcall('HEXISTS', key, text) == 1
end

-- Whether anything stands under a text in the indexes that share the list of this one, or in one other than `but`: a field
-- may have had another index before. False where there is no list.
local function has_value(model, slot, text, but)
  local own = model.listed and model.listed[slot]
  for other, lists in pairs(own and model.listed or {}) do
    if other ~= but and lists[1] == own[1] and has_text(model, other, text) then
      return true
    end
  end
  return false
end

-- Lists the value of a tail no longer, if the record that left it was the last in `set` (false: the only one there was).
local function unlist_value(model, slot, tail, set)
  local own = model.listed and model.listed[slot]
  if not own or tail == NULL or (set and run('EXISTS', set) == 1) or has_value(model, slot, tail, slot) then
    return
  end
  era = era + 1
  remove(own[1], tail)
  for _, lists in pairs(model.listed) do
    if lists[1] == own[1] then
      remove(lists[2], lists[2] and mirrored(tail))
    end
  end
end
