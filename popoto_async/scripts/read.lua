-- purpose: the operations that only read, for EVALSHA_RO, replicas and servers at maxmemory
-- keys: the class key of the first operation; all others share its hash tag
-- args: the header, then the values it refers to
-- reply: time in µs, outcomes

local operations = {}
-- include: lib/main.lua
-- include: lib/due.lua
-- operations: load fetch select audit+members+tell+weigh+behind

local call = begun()

-- Where expired records wait, this script can't sweep them: the writing one has to answer.
local function refusal(model)
  if model.refusal == nil then
    local done, due = pcall(has_due, model, call.now)
    model.refusal = not done and failure(due) or (due and {'due'})
  end
  return model.refusal
end

local outcomes = {}
for i, op in ipairs(call.ops) do
  local model = model_of(call, op)
  outcomes[i] = refusal(model) or run_operation(call, op, model)
end
return {call.time, outcomes}
