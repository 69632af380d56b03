-- purpose: say what `mend` would do
-- keys: the record, the index keys named by its old and new entries, $Class, $Man, $Exp
-- args: as those of `mend`
-- reply: as that of `mend` | slots
-- include: lib/faults.lua
-- include: lib/slots.lua

operations.tell = function(call, op, model)
  local moved = slots_differ(model)
  if moved then
    return moved
  end
  local status, faults = faults_of(call, op, model)
  return {'ok', status, told(faults)}
end
