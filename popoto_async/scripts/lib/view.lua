-- purpose: what a select has read of records so far, and what it has spent
-- defines: COST, view_of, scores_of

-- In units of about 2 µs: to open a source, or one of the many sets of one; on each candidate for having it, for each
-- look-up in a sorted set, for reading its hash, measuring its distance, sorting it among few or among all; to show a
-- record, and each item of its lists.
local COST = {
  open = 2, set = 4, walk = 0.3, probe = 0.6, read = 2.5, measure = 1.5, sort = 0.5, sort_all = 2, show = 3.5, item = 0.1,
}

-- A view answers `value(key, field)` with what is stored, or false. The first question about a record fetches all the
-- fields that can be asked for. `spent` is in the units of COST; `owed` is what is sure to be spent on the answer.
local function view_of(fields)
  local rows, column = {}, {}
  for i, field in ipairs(fields) do
    column[field] = i
  end
  local view = {spent = 0, owed = 0}
  function view.value(key, field)
    local row = rows[key]
    if not row then
      row = redis.call('HMGET', key, unpack(fields))
      rows[key] = row
      view.spent = view.spent + COST.read
    end
    return row[column[field]]
  end
  return view
end

-- The scores of some keys (at most some hundred), false where they have none.
local function scores_of(z, keys, view)
  view.spent = view.spent + COST.probe * (#keys + 1)
  return redis.call('ZMSCORE', z, unpack(keys))
end
