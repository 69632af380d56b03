-- purpose: what keeps operations from being carried out as they were planned: other slots, expired records to sweep first
-- defines: refused
-- include: lib/slots.lua
-- include: lib/due.lua
-- include: lib/failure.lua
-- include: lib/of_step.lua

-- A model is made ready once in a call: its slots compared, what is due of it swept.
local function make_ready(call, model)
  model.refusal = slots_differ(model)
  local plain = redis.call('EXISTS', model.exp, model.man, model.alias) == 0
  bare[model.class] = plain
  model.due = not plain and not model.refusal and has_due(call, model) and
    operations.sweep(call, {}, model)[3] == 1
end

local function refusal(call, model)
  if model.ready == nil then
    local done, reason = pcall(make_ready, call, model)
    if not done then
      model.refusal = failure(reason)
    end
    model.ready = not (model.refusal or model.due)
  end
  return model.refusal
end

-- A transaction is refused as a whole, and says for which of its operations.
local function refused(call, op, model)
  local outcome = refusal(call, model) or (model.due and op.reads and {'due'})
  for i, step in ipairs(op.ops or {}) do
    local reason = refusal(call, call.models[step.m or 1])
    outcome = outcome or (reason and of_step(i, reason))
  end
  return outcome
end
