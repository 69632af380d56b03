-- purpose: fields that are lists of their own beside the record, read into its row
-- defines: read_lists, count_items

-- Both are defined by the first row that has lists: no other model pays for them.
local read_lists, count_items

local function define_lists()
  -- include: lib/beside.lua
  -- include: lib/errors.lua

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
  read_lists = function(model, names, record, row)
    each_list(model, names, record, function(i, key)
      if not row[i] then
        local list = redis.pcall('LRANGE', key, 0, -1)
        row[i] = is_error(list) and list.err or list
      end
    end)
  end

  count_items = function(model, names, record)
    local count = 0
    each_list(model, names, record, function(_, key)
      local length = redis.pcall('LLEN', key)
      count = count + (is_error(length) and 1 or length)
    end)
    return count
  end
end

read_lists = function(...)
  define_lists()
  return read_lists(...)
end

count_items = function(...)
  define_lists()
  return count_items(...)
end
