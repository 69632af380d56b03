-- purpose: the order of records that don't come in it
-- defines: order
-- include: lib/bytes.lua
-- include: lib/decimal.lua
-- include: lib/view.lua

local order = {}

-- Orders without those that can't matter any more.
function order.significant(orders)
  local kept = {}
  for _, by in ipairs(orders) do
    local first = kept[1]
    if by.by == 'key' then
      if not first or (by.desc or false) ~= (first.desc or false) then
        kept[#kept + 1] = by
      end
      return kept
    end
    kept[#kept + 1] = by
  end
  return kept
end

-- What a record is ordered by is its mark, of one of three kinds: `score`, a double; `number` and `text`, stored texts.
-- False where a record has none: it comes last in both directions.

-- Texts this short and without an exponent differ exactly when their doubles do.
local EXACT_DIGITS = 15

-- The mark of a stored text. A number is a double where that is exact enough, because most are and doubles compare
-- quickly; what should be a number and is none has no mark.
local function mark_of(kind, text)
  if not text or kind ~= 'number' then
    return text
  elseif not decimal.is_number(text) then
    return false
  end
  return #text <= EXACT_DIGITS and not text:find('[eE]') and tonumber(text) or text
end

local function number_text(mark)
  return type(mark) == 'number' and string.format('%.15g', mark) or mark
end

local comparers = {text = bytes.compare}

function comparers.score(a, b)
  return a < b and -1 or a > b and 1 or 0
end

function comparers.number(a, b)
  if type(a) == 'number' and type(b) == 'number' then
    return comparers.score(a, b)
  end
  return decimal.compare(number_text(a), number_text(b))
end

-- The kinds of the marks of some orders. Without ties a score is the value; with them stored texts have to be read.
function order.kinds(orders)
  local kinds = {}
  for i, by in ipairs(orders) do
    local tied = by.tie and redis.call('EXISTS', by.tie) == 1
    if by.by == 'distance' or (by.by == 'index' and not tied) then
      kinds[i] = 'score'
    else
      kinds[i] = by.c == 'number' and 'number' or 'text'
    end
  end
  return kinds
end

-- The marks of some keys under one order.
local function marks_of(by, kind, keys, view)
  local marks = {}
  if by.by == 'index' and kind == 'score' then
    for i, score in ipairs(later.scores_of(by.z, keys, view)) do
      marks[i] = score and tonumber(score)
    end
    return marks
  end
  for i, key in ipairs(keys) do
    local text = by.by == 'key' and key or view.value(key, by.f)
    if text and by.by == 'distance' then
      view.spent = view.spent + COST.measure
      marks[i] = later.geo.distance(by.lat, by.lon, later.geo.position(text))
    else
      marks[i] = mark_of(kind, text)
    end
  end
  return marks
end

-- Records as items: {key = key, mark under the first order, mark under the second, …}.
function order.items(orders, kinds, keys, view)
  local items = {}
  for i, key in ipairs(keys) do
    items[i] = {key = key}
  end
  for position, by in ipairs(orders) do
    for i, mark in ipairs(#keys > 0 and marks_of(by, kinds[position], keys, view) or {}) do
      items[i][position] = mark
    end
  end
  return items
end

-- Whether marks travel as texts that have to be read from the record for that alone.
function order.reads_later(orders, kinds)
  for i, by in ipairs(orders) do
    if kinds[i] == 'score' and by.tie and by.c == 'text' then
      return true
    end
  end
  return false
end

-- The marks of an item as they travel: texts that compare alike in every call, whatever ties there are by then.
function order.texts(orders, kinds, item, view)
  local texts = {}
  for i, by in ipairs(orders) do
    local mark = item[i]
    if mark and kinds[i] == 'score' then
      mark = by.tie and by.c == 'text' and view.value(item.key, by.f) or float_text(mark)
    end
    texts[i] = mark and number_text(mark)
  end
  return texts
end

-- Whether one item stands before another. Those equal in all orders stand by key, in the direction of the first.
local function ordering(orders, kinds)
  local compare, descends = {}, {}
  for i, by in ipairs(orders) do
    compare[i], descends[i] = comparers[kinds[i]], by.desc or false
  end
  return function(a, b)
    for i = 1, #compare do
      local x, y = a[i], b[i]
      if x ~= y then
        if not x or not y then
          return not y
        end
        local sign = compare[i](x, y)
        if sign ~= 0 then
          return (sign < 0) ~= descends[i]
        end
      end
    end
    return a.key ~= b.key and bytes.less(a.key, b.key) ~= descends[1]
  end
end

-- The place of a record in the orders as an item, from what it was ordered by (`after` of a query).
local function item_at(orders, kinds, after)
  local item = {key = after.key}
  for i, by in ipairs(orders) do
    local text = by.by == 'key' and after.key or after.texts[i]
    if by.by == 'index' and kinds[i] == 'score' then
      item[i] = after.scores[i] and tonumber(after.scores[i])
    elseif text and by.by == 'distance' then
      item[i] = later.geo.distance(by.lat, by.lon, later.geo.position(text))
    else
      item[i] = mark_of(kinds[i], text)
    end
  end
  return item
end

-- Keeps the best `want` of the items it is given, without ever holding many more; only those after a place, if any, and
-- those before an item that an earlier call ended with.
function order.best(orders, kinds, want, after, worst)
  local items, before = {}, ordering(orders, kinds)
  local place = after and item_at(orders, kinds, after)
  local function cut()
    table.sort(items, before)
    for i = #items, want + 1, -1 do
      items[i] = nil
    end
    worst = items[want] or worst
  end
  return {
    wants = function(item)
      return (not worst or before(item, worst)) and (not place or before(place, item))
    end,
    add = function(item)
      items[#items + 1] = item
      if #items > 2 * want + 20 then
        cut()
      end
    end,
    worst = function() return worst end,
    -- Whether an item, and all after it, comes too late.
    ends_at = function(item) return worst and not before(item, worst) end,
    sorted = function()
      cut()
      return items
    end,
  }
end
