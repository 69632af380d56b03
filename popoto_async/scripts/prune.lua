-- purpose: remove from an index key members that stand for no record; a list beside none, or end it with its record
-- keys: the index key or the key beside a record, the records they name
-- args: at op.at: the key, then op.n pairs of tail and member; op.kind, op.slot (-1: no index of the model), op.records
-- reply: ok, for each member 1 or 0 (whether it was removed, or ends otherwise now)
-- include: lib/survey.lua

-- By kind: what removes a member, given its key, tail and name; true where there was something to remove.
local removers = {}

function removers.m(key, _, member)
  local score = run('ZSCORE', key, member)
  return score and write({'ZADD', key, score, member}, 'ZREM', key, member) == 1
end

function removers.c(key, tail, member)
  return run('HGET', key, tail) == member and write({'HSET', key, tail, member}, 'HDEL', key, tail) == 1
end

function removers.manifests(key, _, member)
  local text = run('HGET', key, member)
  return text and write({'HSET', key, member, text}, 'HDEL', key, member) == 1
end

removers.class, removers.deadlines, removers.list, removers.mirror = removers.m, removers.m, removers.m, removers.m

local function is_stray(op, model, member)
  if op.slot >= 0 and (op.kind == 'list' or op.kind == 'mirror') then
    return not is_value(model, op.slot, op.kind, member)
  end
  return op.slot < 0 or not is_living(op.records, member)
end

-- Removes a member, and the value that only it had from the lists.
local function prune(op, model, key, tail, member)
  local remove = removers[op.kind]
  if not is_stray(op, model, member) or not remove(key, tail, member) then
    return 0
  end
  if op.slot >= 0 and (remove == removers.c or op.kind == MEMBER) then
    unlist_value(model, op.slot, tail, op.kind == MEMBER and key)
  end
  return 1
end

local function mend_beside(call, op, key, record)
  if redis.call('TYPE', key).ok ~= 'list' then
    return 0
  end
  local wrong, ends = amiss(call, op.records, key, record)
  if wrong == 'orphan' then
    return redis.call('UNLINK', key)
  elseif wrong and ends then
    return redis.call('PEXPIREAT', key, string.format('%.0f', ends))
  end
  return wrong and redis.call('PERSIST', key) or 0
end

operations.prune = function(call, op, model)
  local key, removed = ARGV[op.at], {}
  if op.kind == 'beside' then
    return {'ok', {mend_beside(call, op, key, ARGV[op.at + 2])}}
  end
  for i = op.at + 1, op.at + 2 * op.n, 2 do
    removed[#removed + 1] = prune(op, model, key, ARGV[i], ARGV[i + 1])
  end
  return {'ok', removed}
end
