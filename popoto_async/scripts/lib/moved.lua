-- purpose: references to a record whose key has changed
-- defines: rewrite_some, rewrite_alias
-- include: lib/referrers.lua

-- Gives up to so many of the references under `name` the key `to` {key, part}, each for itself; an outcome where that
-- failed, else false, and how many are left.
local function rewrite_some(call, graph, name, to, most)
  local left = 0
  for _, ref in ipairs(graph[1].refs) do
    local set, m = ref.rel .. name, graph[ref.n].m
    local members = most > 0 and run('ZRANGE', set, 0, most - 1) or {}
    for _, member in ipairs(members) do
      local done = refer(call, m, ref, member, to)
      if not done then
        slot_of(m, '')
        sweep(m, member)
        redis.call('ZREM', set, member)
        undo = {}
      elseif done ~= true then
        return {'clash', graph[ref.n].name, member, done[4]}, 0
      end
    end
    most = most - #members
    left = left + run('ZCARD', set)
  end
  return false, left
end

-- The same for what an earlier key of a record is still referred to by, as `$Alias` has it.
local function rewrite_alias(call, alias, name, most)
  local stored = run('HGET', alias, name)
  if not stored then
    return false, 0
  end
  local moved = cmsgpack.unpack(stored)
  local refusal = unheard(moved.graph)
  if refusal then
    return refusal, 0
  end
  local outcome, left = rewrite_some(call, moved.graph, name, moved, most)
  if not outcome and left == 0 then
    run('HDEL', alias, name)
  end
  return outcome, left
end
