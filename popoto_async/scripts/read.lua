-- purpose: the operations that only read, for EVALSHA_RO, replicas and servers at maxmemory
-- keys: the class key of the first operation; all others share its hash tag
-- args: the header, then the values it refers to
-- reply: time in s, µs, outcomes

local operations = {}
-- include: lib/main.lua
-- include: lib/due.lua
-- operations: load fetch select audit+members+tell+weigh+behind

answer_each(function(op, model)
  if model.refusal == nil then
    -- Where expired records wait, this script can't sweep them: the writing one has to answer.
    local done, due = pcall(has_due, model, call.now)
    model.refusal = done and due and {'due'}
    if not done then
      -- include: lib/failure.lua
      model.refusal = failure(due)
    end
  end
  return model.refusal or run_operation(op, model)
end)
return reply
