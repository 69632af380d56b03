-- purpose: the answer of a select whose candidates come in no order, or only by strata
-- defines: sorted
-- include: lib/collect.lua
-- include: lib/view.lua

-- The best of a call are shown when it ends.
local function sorted(query, plan)
  local order, view = later.order, query.view
  local kinds = order.kinds(query.orders)
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
          local lists = query.model.lists and later.cost_of_lists(query, {item.key}, 1, 1) or 0
          view.spent, view.owed = view.spent + COST.show + lists, view.owed + owes
        end
        last = plan.found == query.want and item.key or last
      end
    end
    -- Along an order, nothing beyond the score that fills the page can still come into it.
    if last and plan.kind == 'walk' then
      plan.edge = redis.call('ZSCORE', source.z, last)
      later.ranks.end_at(position, plan.edge)
    end
    if source.span then
      narrow(position, added - before, items[#items])
    end
    return source.in_order and plan.found >= query.want
  end

  local function reply(cursor)
    local shown, items, keys, marks = {keys = {}, texts = {}}, best.sorted(), {}, {}
    local in_parts = cursor or resumed
    local before = in_parts and 0 or query.offset
    for i = before + 1, #items do
      keys[i - before] = items[i].key
    end
    collect.show(query, shown, keys, 1, math.huge)
    -- Those of them that are records have marks.
    for i, key in ipairs(in_parts and keys or {}) do
      if key == shown.keys[#marks + 1] then
        marks[#marks + 1] = order.texts(query.orders, kinds, items[i], view)
      end
    end
    return collect.reply(query, shown, cursor, in_parts and marks or nil)
  end

  return {cost = query.sort + COST.show, take = take, reply = reply}
end
