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

-- Lists the value of a tail that a record came to. Many records of a call have the same few values: those that it has
-- listed are remembered on the index until something is taken back.
function listing.add(index, tail)
  if not index.list or tail == NULL then
    return
  elseif index.rollbacks ~= rollbacks then
    index.rollbacks, index.listed = rollbacks, {}
  end
  if not index.listed[tail] then
    put(index.list, tail)
    put(index.mirror, index.mirror and mirrored(tail))
    index.listed[tail] = true
  end
end

-- Whether an index has records under a text.
local function has_text(index, text)
  if index.kind == 'm' then
    return redis.call('EXISTS', index.key .. text) == 1
  end
  return redis.pcall('HEXISTS', index.key, text) == 1
end

-- Whether anything stands under a text in the indexes that share the list of this one, or in one other than this.
function listing.has(index, text, but)
  for _, other in ipairs(index.group) do
    if other ~= but and has_text(other, text) then
      return true
    end
  end
  return false
end

-- Lists the value of a tail no longer, if the record that left it was the last in `set` (false: the only one there was).
function listing.drop(index, tail, set)
  if not index.list or tail == NULL or (set and run('EXISTS', set) == 1) or listing.has(index, tail, index) then
    return
  end
  local mirror = index.group.mirror
  remove(index.list, tail)
  remove(mirror, mirror and mirrored(tail))
  for _, other in ipairs(index.group) do
    if other.listed then
      other.listed[tail] = nil
    end
  end
end
