-- purpose: registering the slots that a call adds, with the first record that may need them
-- defines: register_slots
-- include: lib/writes.lua

local function register_slots(model)
  local known = run('GET', model.slots)
  if known ~= model.unregistered then
    write(known and {'SET', model.slots, known} or {'DEL', model.slots}, 'SET', model.slots, model.unregistered)
  end
end
