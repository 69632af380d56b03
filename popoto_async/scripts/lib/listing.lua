-- purpose: listing the distinct values of an index as records come to them
-- defines: list_value
-- include: lib/null.lua
-- include: lib/writes.lua

-- Lists the value of a tail that a record came to, in the `lists` of its index: {list, list of mirrored values}. Many
-- records of a call have the same few values: of those that were listed, nothing is asked again. A value that stands where
-- it should be is no change and has nothing to take back.
local function list_value(lists, tail)
  local known = listed_values[lists]
  if not known then
    known = {}
    listed_values[lists] = known
  end
  if known[tail] or tail == NULL then
    return
  end
  known[tail] = true
  for i = 1, #lists do
    local key, text = lists[i], tail
    if i == 2 then
      -- include: lib/tails.lua
      text = mirrored(tail)
    end
    blamed = key
    if redis.call('ZADD', key, '0', text) == 1 then
      undo[#undo + 1] = {'ZREM', key, text}
    end
  end
end
