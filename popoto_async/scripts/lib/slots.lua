-- purpose: the slots of a model's indexes, which have to be those on the server
-- defines: slots_differ, register_slots
-- include: lib/writes.lua

-- The outcome that tells the slots on the server, where the call was planned on others. Those of a call that only adds
-- to them are right, and registered with the first record that may need them.
local function slots_differ(model)
  local text = table.concat(model.table, '\n')
  local known = run('GET', model.slots) or ''
  if known == text then
    return false
  elseif known == model.was then
    model.unregistered = text
    return false
  end
  return {'slots', known}
end

local function register_slots(model)
  local known = run('GET', model.slots)
  if known ~= model.unregistered then
    write(known and {'SET', model.slots, known} or {'DEL', model.slots}, 'SET', model.slots, model.unregistered)
  end
end
