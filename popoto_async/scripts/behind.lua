-- purpose: how far records have followed others whose key has changed
-- keys: the hash of keys that have changed, the sets of who refers
-- args: op.n earlier keys at op.at; op.alias
-- reply: ok, for each: the number of references left and the present key | false, where nobody has to follow any more |
--        an empty list, where what stands there can't be read
-- include: lib/errors.lua

local function left_of(earlier, stored)
  local done, moved = pcall(cmsgpack.unpack, stored)
  local node = done and type(moved) == 'table' and type(moved.graph) == 'table' and moved.graph[1]
  if not node or type(moved.key) ~= 'string' then
    return {}
  end
  local left = 0
  for _, ref in ipairs(node.refs) do
    local count = redis.pcall('ZCARD', ref.rel .. earlier)
    left = left + (is_error(count) and 1 or count)
  end
  return {left, moved.key}
end

operations.behind = function(_, op)
  local found = {}
  for i = op.at, op.at + op.n - 1 do
    local stored = redis.call('HGET', op.alias, ARGV[i])
    found[#found + 1] = stored and left_of(ARGV[i], stored)
  end
  return {'ok', found}
end
