-- purpose: fields that are lists of their own beside the record, read into its row
-- defines: read_lists

-- Puts the lists into a row of the record's hash, where they are among the names; how many items that were. What can't
-- be read as a list stands there as text, which no list is: a value from before the field had a cap, or an error.
-- Defined by the first row that has any: no other model pays for it.
local read_lists
read_lists = function(...)
  -- include: lib/beside.lua
  read_lists = function(model, names, key, row)
    local items = 0
    for i, name in ipairs(names) do
      local slot = model.lists[name]
      if slot and not row[i] then
        local list = redis.pcall('LRANGE', beside_key(model, slot, key), 0, -1)
        row[i] = is_error(list) and list.err or list
        items = items + (is_error(list) and 1 or #list)
      end
    end
    return items
  end
  return read_lists(...)
end
