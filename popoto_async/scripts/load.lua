-- purpose: read fields of one record by its key
-- keys: the record, its lists
-- args: op.key, op.fields (all declared ones when absent)
-- reply: ok and the fields' texts (ok alone when there is no such record) | foreign key type

-- What only records with lists need.
local function reader()
  -- include: lib/lists.lua
  return read_lists
end

operations.load = function(_, op, model)
  -- `$`, which says whether there is a record, then the fields; those of the model are the same for many records.
  local names = op.fields and {'$', unpack(op.fields)} or model.columns
  if not names then
    names = {'$', cmsgpack.unpack(model.fields)}
    model.columns = names
  end
  local row = redis.pcall('HMGET', op.key, unpack(names))
  if row.err then
    return {'foreign', op.key, redis.call('TYPE', op.key).ok}
  end
  if not row[1] then
    return {'ok'}
  elseif model.lists then
    model.read_lists = model.read_lists or reader()
    model.read_lists(model, names, op.key, row)
  end
  row[1] = 'ok'
  return row
end
