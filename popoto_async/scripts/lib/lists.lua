-- purpose: fields that are lists of their own beside the record, read into its row
-- defines: read_lists, cost_of_lists
-- include: lib/beside.lua
-- include: lib/commands.lua
-- include: lib/errors.lua
-- include: lib/view.lua

-- Calls a function with the number and the key of each of the names that is a list.
local function each_list(model, names, record, visit)
  for i, name in ipairs(names) do
    if model.lists[name] then
      visit(i, beside_key(model, model.lists[name], record))
    end
  end
end

-- Puts the lists into a row of the record's hash, where they are among the names. What can't be read as a list stands
-- there as text, which no list is: a value from before the field had a cap, or an error.
local function read_lists(model, names, record, row)
  each_list(model, names, record, function(i, key)
    if not row[i] then
      local list = redis.pcall('LRANGE', key, 0, -1)
      row[i] = is_error(list) and list.err or list
    end
  end)
end

-- What showing the lists of some records costs: how long they are is told by the server.
local function cost_of_lists(query, keys, first, last)
  local count = 0
  for number = first, query.op.mode == 'rows' and last or 0 do
    each_list(query.model, query.columns, keys[number], function(_, key)
      local length = redis.pcall('LLEN', key)
      count = count + (is_error(length) and 1 or length)
    end)
  end
  return COST.item * count
end
