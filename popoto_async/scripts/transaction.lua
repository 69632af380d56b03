-- purpose: several operations, all or none
-- keys: those of the operations
-- args: op.ops, each with an m of its own
-- reply: ok outcomes | failed index outcome
-- include: lib/main.lua

operations.transaction = function(call, op, model)
  local outcomes = {}
  for i, step in ipairs(op.ops) do
    for _, key in ipairs({step.from or step.key, step.from and step.key}) do
      local copy = redis.call('DUMP', key)
      local deadline = run('ZSCORE', call.models[step.m].exp, key)
      undo[#undo + 1] = copy and {'RESTORE', key, deadline or '0', copy, 'REPLACE', 'ABSTTL'} or {'DEL', key}
    end
    step.together = true
    local done, outcome = pcall(operations[step.op], call, step, call.models[step.m])
    if not done then
      rollback()
      return {'failed', i, failure(outcome)}
    end
    if outcome[1] ~= 'ok' then
      rollback()
      return {'failed', i, outcome}
    end
    outcomes[i] = outcome
  end
  return {'ok', outcomes}
end
