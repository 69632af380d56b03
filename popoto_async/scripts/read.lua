-- purpose: the operations that only read, for EVALSHA_RO, replicas and servers at maxmemory
-- keys: the class key of the first operation; all others share its hash tag
-- args: the header, then the values it refers to
-- reply: time in µs or false, outcomes

local operations = {}
-- include: lib/main.lua
-- operations: load fetch select audit+members+tell+weigh+behind

-- An operation that is the same for several records names them in `each`.
for i = 1, #ops do
  local op = ops[i]
  local model, each = models[op.m or 1], op.each
  if model.refusal == nil then
    -- Where expired records wait, this script can't sweep them: the writing one has to answer.
    blamed = model.exp
    local first = redis.pcall('ZRANGE', model.exp, '0', '0', 'WITHSCORES')
    model.refusal = false
    if first.err then
      -- include: lib/failure.lua
      model.refusal = failure(first)
    elseif first[2] then
      -- include: lib/clock.lua
      model.refusal = tonumber(first[2]) <= now_of(call) and {'due'}
    end
  end
  op.at = op.at or 2
  for j = 1, each and #each or 1 do
    op.key = each and each[j] or op.key
    local outcome = model.refusal
    if not outcome then
      blamed = false
      local done, result = pcall(operations[op.op], call, op, model)
      if not done then
        -- include: lib/failure.lua
        result = failure(result)
      end
      outcome = result
    end
    reply[#reply + 1] = outcome
  end
end
return reply
