-- purpose: the operations that only read, for EVALSHA_RO, replicas and servers at maxmemory
-- keys: the class key of the first operation; all others share its hash tag
-- args: the header, then the values it refers to
-- reply: time in µs, outcomes

local operations = {}
-- include: lib/main.lua
-- include: lib/due.lua
-- operations: load fetch select audit+members+tell+weigh+behind

-- Where expired records wait, this script can't sweep them: the writing one has to answer.
local function refusal(model)
  if model.refusal == nil then
    local done, due = pcall(has_due, model, call.now)
    model.refusal = done and due and {'due'}
    if not done then
      -- include: lib/failure.lua
      model.refusal = failure(due)
    end
  end
  return model.refusal
end

-- An operation that is the same for several records names them in `each`.
for i = 1, #ops do
  local op = ops[i]
  local model, each = models[op.m or 1], op.each
  local refused = refusal(model)
  op.at = op.at or 2
  for j = 1, each and #each or 1 do
    op.key = each and each[j] or op.key
    reply[#reply + 1] = refused or run_operation(op, model)
  end
end
return reply
