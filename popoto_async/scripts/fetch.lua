-- purpose: read the records that references stand for, whatever their keys are by now
-- keys: the records, their lists, the hash of keys that have changed
-- args: op.keys, op.alias
-- reply: ok keys rows (a row is false where there is no such record, the type of what stands there where it is foreign)

local later = {}
-- later: lib/lists.lua

operations.fetch = function(_, op, model)
  local names = {cmsgpack.unpack(model.fields)}
  names[#names + 1] = '$'
  local moved = redis.call('EXISTS', op.alias) == 1
  local keys, rows = {}, {}
  for i, key in ipairs(op.keys) do
    local row = redis.pcall('HMGET', key, unpack(names))
    local alias = moved and not row.err and not row[#names] and redis.call('HGET', op.alias, key)
    if alias then
      key = cmsgpack.unpack(alias).key
      row = redis.pcall('HMGET', key, unpack(names))
    end
    if model.lists and not row.err and row[#names] then
      later.read_lists(model, names, key, row)
    end
    keys[i] = key
    rows[i] = row.err and redis.call('TYPE', key).ok or (row[#names] and row)
  end
  return {'ok', keys, rows}
end
