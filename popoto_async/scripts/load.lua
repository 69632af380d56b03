-- purpose: read fields of one record by its key
-- keys: the record, its lists
-- args: op.key, op.fields (all declared ones when absent)
-- reply: ok row (false when there is no such record) | foreign key type
-- include: lib/lists.lua

-- The stored fields of a model, then `$`, which says whether there is a record.
local function columns(model, fields)
  local names = {unpack(fields or model.fields)}
  names[#names + 1] = '$'
  if not fields then
    model.columns = names
  end
  return names
end

operations.load = function(_, op, model)
  local names = not op.fields and model.columns or columns(model, op.fields)
  local row = redis.pcall('HMGET', op.key, unpack(names))
  if row.err then
    return {'foreign', op.key, redis.call('TYPE', op.key).ok}
  end
  if model.lists and row[#names] then
    read_lists(model, names, op.key, row)
  end
  return {'ok', row[#names] and row}
end
