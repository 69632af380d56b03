-- purpose: the answer of a select, collected from the candidates that pass
-- defines: collect
-- include: lib/view.lua

-- A collector has `cost`, what a candidate costs that passes, in units of the budget; `take(position, found)`, which says
-- whether no more are wanted; and `reply(cursor)`.
local collect = {}

-- Adds to a page those of some keys, from number `first` on, that are records, at most `most`. The number of the last one
-- that was looked at. A page has `keys`, and the `texts` of its rows one after the other: a table less for each row.
function collect.show(query, shown, found, first, most)
  local keys, texts, columns, lists = shown.keys, shown.texts, query.columns, query.model.lists
  local wide, width = query.op.mode == 'rows', #columns - 1
  local shows, at = #keys, #texts
  local full = shows + most
  for number = first, #found do
    local key, stands = found[number], nil
    if wide then
      local row = redis.call('HMGET', key, unpack(columns))
      stands = row[width + 1]
      if stands then
        if lists then
          later.read_lists(query.model, columns, key, row)
        end
        for i = 1, width do
          texts[at + i] = row[i]
        end
        at = at + width
      end
    else
      stands = redis.call('HEXISTS', key, '$') == 1
    end
    if stands then
      shows = shows + 1
      keys[shows] = key
      if shows == full then
        return number
      end
    end
  end
  return #found
end

function collect.reply(query, shown, cursor, marks)
  return {cursor and 'more' or 'ok', shown.keys, shown.texts, query.examined, cursor or (marks and false), marks}
end

-- Takes candidates that come in order: those to be left out, then as many as `show(found, first)` says it has shown.
function collect.in_order(plan, show)
  return function(_, found)
    local skipped = math.min(plan.skip, #found)
    plan.skip = plan.skip - skipped
    local shown = show(found, skipped + 1)
    plan.found, plan.left = plan.found + shown, plan.left - shown
    return plan.left == 0
  end
end

-- Rows or keys that come in order: the page is full when enough of them have been shown.
function collect.rows(query, plan)
  local shown = {keys = {}, texts = {}}
  local take = collect.in_order(plan, function(found, first)
    local before = #shown.keys
    local last = collect.show(query, shown, found, first, plan.left)
    query.view.spent = query.view.spent + COST.show * (last - first + 1)
    if query.model.lists then
      query.view.spent = query.view.spent + later.cost_of_lists(query, found, first, last)
    end
    return #shown.keys - before
  end)
  return {cost = COST.show, take = take, reply = function(cursor) return collect.reply(query, shown, cursor) end}
end
