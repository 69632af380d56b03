-- purpose: the lists of the distinct values of an index, kept as values come and go
-- defines: listing
-- include: lib/tails.lua
-- include: lib/writes.lua

local listing = {}

-- A value that stands where it should be, or is gone, is no change and has nothing to take back.
local function put(key, text)
  if key and run('ZADD', key, '0', text) == 1 then
    undo[#undo + 1] = {'ZREM', key, text}
  end
end

local function remove(key, text)
  if key and run('ZREM', key, text) == 1 then
    undo[#undo + 1] = {'ZADD', key, '0', text}
  end
end

-- Lists the value of a tail that a record came to, in the `lists` of its index: {list, list of mirrored values}, nil where
-- there are none. Many records of a call have the same few values: those that it has listed are remembered until
-- something is taken back.
function listing.add(lists, tail)
  if not lists or tail == NULL then
    return
  elseif lists.rollbacks ~= rollbacks then
    lists.rollbacks, lists.known = rollbacks, {}
  end
  if not lists.known[tail] then
    put(lists[1], tail)
    put(lists[2], lists[2] and mirrored(tail))
    lists.known[tail] = true
  end
end

-- Whether an index has records under a text.
local function has_text(model, slot, text)
  local key = model.places[slot + 1]
  if not model.kinds[slot] then
    return redis.call('EXISTS', key .. text) == 1
  end
  return redis.pcall('HEXISTS', key, text) == 1
end

-- Whether anything stands under a text in the indexes that share the list of this one, or in one other than `but`: a field
-- may have had another index before.
function listing.has(model, slot, text, but)
  local list = model.listed[slot][1]
  for other, lists in pairs(model.listed) do
    if other ~= but and lists[1] == list and has_text(model, other, text) then
      return true
    end
  end
  return false
end

-- Lists the value of a tail no longer, if the record that left it was the last in `set` (false: the only one there was).
function listing.drop(model, slot, tail, set)
  local own = model.listed[slot]
  if not own or tail == NULL or (set and run('EXISTS', set) == 1) or listing.has(model, slot, tail, slot) then
    return
  end
  remove(own[1], tail)
  for _, lists in pairs(model.listed) do
    if lists[1] == own[1] then
      remove(lists[2], lists[2] and mirrored(tail))
      if lists.known then
        lists.known[tail] = nil
      end
    end
  end
end
