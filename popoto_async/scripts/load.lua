-- purpose: read fields of one record by its key
-- keys: the record, its lists
-- args: op.key, op.fields (all declared ones when absent)
-- reply: ok and the fields' texts (ok alone when there is no such record) | foreign key type
-- include: lib/lists.lua

-- `$`, which says whether there is a record, then the stored fields of a model.
local function columns(model, fields)
  local names = {'$', unpack(fields or model.fields)}
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
  if not row[1] then
    return {'ok'}
  elseif model.lists then
    read_lists(model, names, op.key, row)
  end
  row[1] = 'ok'
  return row
end
