-- purpose: save a record under a key that others refer to: references to it follow, or mean another record
-- keys: those of save, the hash of keys that have changed, the records that refer, their index keys
-- args: those of save; where the key changes op.graph and op.part, the key as a part of others
-- reply: that of save, its fourth item 1 where references are left to replace | clash model key owner | busy key
-- include: lib/failure.lua
-- include: lib/moved.lua

-- The record has another key now, and so have those that refer to it, or some of them.
local function follow(call, op, model, alias)
  local later, most = {}, MOST_REFERRERS
  local node, to = op.graph[1], {key = op.key, part = op.part}
  local left = 0
  for _, ref in ipairs(node.refs) do
    local set, m = ref.rel .. op.from, op.graph[ref.n].m
    local members = most > 0 and run('ZRANGE', set, 0, most - 1) or {}
    for _, member in ipairs(members) do
      if op.together then
        remember_hash(m, member)
      end
      local done = refer_later(later, m, ref, member, to)
      if done and done ~= true then
        return {'clash', op.graph[ref.n].name, member, done[4]}
      elseif done and member == op.key then
        later[member].versioned_already = true
      end
    end
    most = most - #members
    left = left + run('ZCARD', set)
  end
  for _, name in ipairs(names_of(node, op.from)) do
    local stored = run('HGET', model.alias, name)
    if stored or left > 0 then
      bare[model.class] = nil
      write(stored and {'HSET', model.alias, name, stored} or {'HDEL', model.alias, name}, 'HSET', model.alias, name, alias)
    end
  end
  settle_references(later, call)
  return false, left > 0 and 1 or 0
end

operations.save_referred = function(call, op, model)
  local from = op.from or op.key
  if run('HEXISTS', model.alias, op.key) == 1 then
    -- References to this very key mean another record: first they have to say so.
    local outcome = op.together and {'busy', op.key} or rewrite_alias(call, model.alias, op.key, MOST_REFERRERS)
    return outcome or {'moved', op.from and redis.call('HMGET', from, cmsgpack.unpack(model.fields)) or {}}
  end
  for _, key in ipairs({op.from, op.key}) do
    remember_hash(model, key)
    if redis.call('EXISTS', key) == 0 then
      undo[#undo + 1] = {'DEL', key}
    end
  end
  -- What streams are told of it waits until nothing can fail any more.
  local alone = not call.held
  call.held = call.held or {}
  local alias = cmsgpack.pack({key = op.key, part = op.part, graph = op.graph})
  local done, outcome, clash, rest = pcall(function()
    local refusal = unheard(op.graph)
    local saved = refusal or operations.save(call, op, model) or {'ok'}
    if saved[1] ~= 'ok' then
      return saved
    end
    return saved, follow(call, op, model, alias)
  end)
  local held = call.held
  if alone then
    call.held = nil
  end
  if not done then
    error(outcome, 0)
  elseif clash then
    rollback()
    return clash
  end
  for _, entry in ipairs(alone and held or {}) do
    redis.call(unpack(entry))
  end
  if outcome[1] == 'ok' then
    outcome = {'ok', outcome[2] or false, outcome[3] or false, rest}
  end
  return outcome
end
