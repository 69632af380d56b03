-- purpose: listing the distinct values of an index as records come to them
-- defines: list_value
-- include: lib/null.lua
-- include: lib/undo.lua

-- Lists the value of a tail that a record came to, in the `lists` of its index: {list, list of mirrored values}. Many
-- records of a call have the same few values: beside the lists stands for each in which era it was listed. A value that
-- stands where it should be is no change and has nothing to take back.
local function list_value(lists, tail)
  if lists[tail] == era or tail == NULL then
    return
  end
  lists[tail] = era
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
