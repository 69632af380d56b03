-- purpose: several operations, all or none
-- keys: those of the operations
-- args: op.ops, each with an m of its own
-- reply: ok outcomes | slots text index | moved row index | failed index outcome
-- include: lib/main.lua
-- include: lib/failure.lua
-- include: lib/beside.lua
-- include: lib/of_step.lua

operations.transaction = function(call, op)
  local step = 0

  local function remember(key, model)
    local copy = redis.call('DUMP', key)
    local deadline = run('ZSCORE', model.exp, key)
    undo[#undo + 1] = copy and {'RESTORE', key, deadline or '0', copy, 'REPLACE', 'ABSTTL'} or {'DEL', key}
    hold_besides(model, key, deadline)
  end

  -- The outcomes of all steps, or that of the step which failed.
  local function carry_out()
    local outcomes = {}
    for i, one in ipairs(op.ops) do
      step = i
      local model = call.models[one.m or 1]
      one.together = true
      remember(one.from or one.key, model)
      if one.from then
        remember(one.key, model)
      end
      local outcome = operations[one.op](call, one, model) or {'ok'}
      if outcome[1] ~= 'ok' then
        return nil, outcome
      end
      outcomes[i] = outcome
    end
    return outcomes
  end

  call.held = {}
  local done, outcomes, failed = pcall(carry_out)
  local held = call.held
  call.held = nil
  if not done or failed then
    rollback()
    return of_step(step, failed or failure(outcomes))
  end
  for _, entry in ipairs(held) do
    redis.call(unpack(entry))
  end
  return {'ok', outcomes}
end
