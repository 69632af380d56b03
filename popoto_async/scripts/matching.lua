-- purpose: change a record if it satisfies a condition at that moment
-- keys: those of the change, and the index keys named by op.where
-- args: op.key; op.where; op.ops, the change, with an m of its own; values of stored conditions are at op.at
-- reply: as the change | unmatched
-- include: lib/query.lua

operations.matching = function(call, op, model)
  tree.now = call.now
  local query, step = describe(op, model), op.ops[1]
  if #tree.filter(query.where, {op.key}, query.view) == 0 then
    return {'unmatched'}
  end
  return operations[step.op](call, step, call.models[step.m])
end
