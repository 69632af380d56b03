-- purpose: what a select has read of records so far, and what it has spent
-- defines: COST, view_of

-- In units of about 2 µs: to open a source, or one of the many sets of one; on each candidate for having it, for each
-- look-up in a sorted set, for reading its hash, measuring its distance, sorting it among few or among all; to show a
-- record, and each item of its lists.
local COST = {
  open = 2, set = 4, walk = 0.3, probe = 0.6, read = 2.5, measure = 1.5, sort = 0.5, sort_all = 2, show = 3.5, item = 0.1,
}

-- A view answers `value(key, field)` with what is stored, or false. The first question about a record fetches all the
-- fields (a set) that can be asked for. `spent` is in the units of COST; `owed` is what is sure to be spent on the answer.
local function view_of(fields)
  local rows, names, column = {}, nil, {}
  local view = {spent = 0, owed = 0}
  function view.value(key, field)
    if not names then
      names = {}
      for name in pairs(fields) do
        names[#names + 1] = name
        column[name] = #names
      end
    end
    local row = rows[key]
    if not row then
      row = redis.call('HMGET', key, unpack(names))
      rows[key] = row
      view.spent = view.spent + COST.read
    end
    return row[column[field]]
  end
  return view
end
