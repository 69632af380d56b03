-- purpose: what follows once a save has stored a record's hash: nothing of it can fail
-- defines: afterwards

-- `version` is that of the record before, `value` the sum of an increment, `ended` whether the record had a deadline.
-- The outcome of the save, where that has anything to tell.
local function afterwards(call, op, model, key, deadline, version, value, ended)
  if model.beside then
    later.store_besides(op, model, key, op.from or key)
  end
  if model.versioned then
    -- Never a version that an earlier record under this key had, so it starts at the clock.
    version = string.format('%.0f', version and tonumber(version) + 1 or later.micros_of(call))
    redis.call('HSET', key, '$v', version)
  end
  if deadline then
    later.end_record(call, model, key, deadline)
  elseif ended then
    later.keep_record(model, key)
  end
  if model.events then
    later.stream.saved(call, model, op, version, value)
  end
  return (version or value) and {'ok', version or false, value or false}
end
