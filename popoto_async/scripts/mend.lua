-- purpose: bring a record to the entries its values imply, if it is still as it was looked at
-- keys: the record, the index keys named by its old and new entries, $Class, $Man, $Exp
-- args: at op.at: the key, the manifest as seen, the entries implied, the values of op.fields; op.suspects, op.renames
-- reply: ok state faults (kind slot tail other); the state is done, gone, changed or foreign
-- include: lib/faults.lua
-- include: lib/registering.lua

operations.mend = function(call, op, model)
  local status, faults = faults_of(call, op, model)
  if #faults > 0 and model.unregistered then
    register_slots(model)
  end
  for _, found in ipairs(faults) do
    if found.mend then
      found.mend()
    end
  end
  return {'ok', status, told(faults)}
end
