-- purpose: the answer of a select, collected from the candidates that pass
-- defines: collectors
-- include: lib/lists.lua
-- include: lib/order.lua
-- include: lib/view.lua
-- include: lib/walk.lua

-- The columns of a record, or nil if there is none under the key.
local function read_row(query, key)
  if query.op.mode == 'keys' then
    return redis.call('HEXISTS', key, '$') == 1 and {} or nil
  end
  local row = redis.call('HMGET', key, unpack(query.columns))
  if not row[#row] then
    return nil
  elseif query.model.lists then
    read_lists(query.model, query.columns, key, row)
  end
  return row
end

-- What it costs to show a record: how long its lists are is told by the server.
local function show_cost(query, key)
  if query.model.lists and query.op.mode == 'rows' then
    return COST.show + COST.item * count_items(query.model, query.columns, key)
  end
  return COST.show
end

-- The keys of a page, and the texts of its rows one after the other: a table less for each row.
local function page()
  return {keys = {}, texts = {}}
end

local function add_to(shown, query, key)
  local row = read_row(query, key)
  if not row then
    return false
  end
  local keys, texts = shown.keys, shown.texts
  local width = query.op.mode == 'rows' and #query.columns - 1 or 0
  local before = #keys * width
  keys[#keys + 1] = key
  for i = 1, width do
    texts[before + i] = row[i]
  end
  return true
end

local function page_reply(query, shown, cursor, marks)
  return {cursor and 'more' or 'ok', shown.keys, shown.texts, query.examined, cursor or (marks and false), marks}
end

-- Candidates that come in order: the page is full when enough of them have been shown.
local function collect_in_order(query, plan, cost, show, reply)
  return {
    -- How many candidates are sure to cost no more than this.
    fits = function(budget)
      return math.max(budget / (query.look + cost), (budget - plan.left * cost) / query.look)
    end,
    -- Where the index answers alone, an offset is a rank.
    jump = function(position)
      local source = position.source
      if source.z and #source.tests + #source.excepts == 0 then
        local jump = math.max(0, math.min(plan.skip, position.stop - position.next))
        plan.skip, position.next = plan.skip - jump, position.next + jump
      end
    end,
    take = function(_, found)
      for _, key in ipairs(found) do
        if plan.skip > 0 then
          plan.skip = plan.skip - 1
        elseif show(key) then
          plan.found, plan.left = plan.found + 1, plan.left - 1
          if plan.left == 0 then
            return true
          end
        end
      end
      return false
    end,
    is_full = function() return plan.left == 0 end,
    reply = reply,
  }
end

-- Candidates that come in no order, or only by strata: the best of a call are shown when it ends.
local function collect_sorted(query, plan)
  local kinds, view = order.kinds(query.orders), query.view
  local best = order.best(query.orders, kinds, query.want, query.after, plan.last and {plan.last, key = plan.last})
  local endless, resumed, added = query.want == math.huge, query.op.cursor, 0
  local owes = endless and order.reads_later(query.orders, kinds) and COST.read or 0

  -- By key, what begins with all that is wanted, or has come too late, needs no further look; the others end there.
  local function narrow(position, more, last)
    local worst = best.worst()
    if worst then
      plan.last, query.span.to = worst.key, worst.key
    end
    position.brought = (position.brought or 0) + more
    if position.source.z and (position.brought >= query.want or (last and best.ends_at(last))) then
      position.stop = position.next
    end
  end

  local function take(position, found)
    local source, last, before = position.source, nil, added
    view.spent = view.spent + #found * (endless and COST.sort_all or COST.sort)
    local items = order.items(query.orders, kinds, found, view)
    for _, item in ipairs(items) do
      if best.wants(item) and (endless or view.value(item.key, '$')) then
        best.add(item)
        added, plan.found = added + 1, plan.found + 1
        if added <= query.want then
          view.spent, view.owed = view.spent + show_cost(query, item.key), view.owed + owes
        end
        last = plan.found == query.want and item.key or last
      end
    end
    -- Along an order, nothing beyond the score that fills the page can still come into it.
    if last and plan.kind == 'walk' then
      plan.edge = redis.call('ZSCORE', source.z, last)
      walk.end_at(position, plan.edge)
    end
    if source.span then
      narrow(position, added - before, items[#items])
    end
    return source.in_order and plan.found >= query.want
  end

  local function reply(cursor)
    local shown, marks = page(), {}
    local in_parts = cursor or resumed
    for i, item in ipairs(best.sorted()) do
      if (in_parts or i > query.offset) and add_to(shown, query, item.key) then
        marks[#marks + 1] = order.texts(query.orders, kinds, item, view)
      end
    end
    return page_reply(query, shown, cursor, in_parts and marks or nil)
  end

  return {
    fits = function(budget) return budget / (query.look + query.sort + COST.show) end,
    jump = function() end, take = take, reply = reply,
    is_full = function() return plan.found >= query.want end,
  }
end

local collectors = {}

function collectors.rows(query, plan)
  if plan.sorted then
    return collect_sorted(query, plan)
  end
  local shown = page()
  return collect_in_order(query, plan, COST.show, function(key)
    query.view.spent = query.view.spent + show_cost(query, key)
    return add_to(shown, query, key)
  end, function(cursor)
    return page_reply(query, shown, cursor)
  end)
end

collectors.keys = collectors.rows

function collectors.count(query, plan)
  local counted = 0
  return collect_in_order(query, plan, 0, function()
    counted = counted + 1
    return true
  end, function(cursor)
    return {cursor and 'more' or 'ok', counted, query.examined, cursor}
  end)
end
