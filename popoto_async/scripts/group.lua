-- purpose: one consumer of a group of a stream: give it its next entries, or hear what became of them
-- keys: op.stream, op.dead
-- args: op.verb, op.group, op.consumer, op.idle (ms), op.limit, op.start, op.after, op.count, op.most, op.ids, op.reason
-- reply: ok entries after newest | ok settled | corrupt; an entry is {id, {name, value, …}, deliveries}
-- include: lib/errors.lua
-- include: lib/writes.lua
-- include: lib/pending.lua

operations.group = function(_, op)
  -- Pending entries looked at in one call, and bytes of new ones from which no more are added.
  local EXAMINED = 100
  local ENOUGH = 1048576

  -- Pending entries in order of their ids, of one consumer or of all. The group is made if there is none.
  local function pending_after(consumer)
    local found = pending(op, op.after or '-', '+', EXAMINED, consumer)
    if is_error(found) then
      redis.call('XGROUP', 'CREATE', op.stream, op.group, op.start, 'MKSTREAM')
    end
    return is_error(found) and {} or found
  end

  local function take_over(item, entries)
    local entry = redis.call('XRANGE', op.stream, item[1], item[1])[1]
    if not entry then
      bury(op, item, {}, 'trimmed')
    elseif item[4] >= op.most then
      bury(op, item, entry[2], 'delivered too often')
    else
      redis.call('XCLAIM', op.stream, op.group, op.consumer, 0, item[1])
      entries[#entries + 1] = {entry[1], entry[2], item[4] + 1}
    end
  end

  local function take_new(entries)
    local size = 0
    while #entries < op.count and size < ENOUGH do
      local read = redis.call('XREADGROUP', 'GROUP', op.group, op.consumer, 'COUNT', 1, 'STREAMS', op.stream, '>')
      if not read then
        return
      end
      local entry = read[1][2][1]
      for _, word in ipairs(entry[2]) do
        size = size + #word
      end
      entries[#entries + 1] = {entry[1], entry[2], 1}
    end
  end

  local function answer(entries, after)
    local newest = redis.call('XREVRANGE', op.stream, '+', '-', 'COUNT', 1)[1]
    return {'ok', entries, after, newest and newest[1] or '0-0'}
  end

  local verbs = {}

  -- What a consumer of this name had when it was last here is due at once.
  function verbs.join()
    local found = pending_after(op.consumer)
    for _, item in ipairs(found) do
      hand_back(op, item, item[4])
    end
    return answer({}, #found == EXAMINED and '(' .. found[EXAMINED][1])
  end

  function verbs.take()
    local entries, after = {}, false
    for i, item in ipairs(pending_after()) do
      if item[3] >= op.idle then
        take_over(item, entries)
      end
      after = (#entries == op.count or i == EXAMINED) and '(' .. item[1]
      if #entries == op.count then
        break
      end
    end
    take_new(entries)
    return answer(entries, after)
  end

  local settle = {}

  function settle.ack(item)
    redis.call('XACK', op.stream, op.group, item[1])
  end

  function settle.reject(item)
    local entry = redis.call('XRANGE', op.stream, item[1], item[1])[1]
    bury(op, item, entry and entry[2] or {}, op.reason)
  end

  function settle.retry(item)
    hand_back(op, item, item[4])
  end

  function settle.extend(item)
    redis.call('XCLAIM', op.stream, op.group, op.consumer, 0, item[1], 'JUSTID')
  end

  -- The consumer did not begin with it: that was no delivery.
  settle['return'] = function(item)
    hand_back(op, item, item[4] - 1)
  end

  settle.leave = settle['return']

  -- Whoever has handled an entry may say so; the rest is for the consumer that has it.
  local anybody = {ack = true, reject = true}

  local function settled()
    local number = 0
    for _, id in ipairs(op.ids) do
      local item = pending(op, id, id, 1, not anybody[op.verb] and op.consumer or nil)[1]
      if type(item) == 'table' then
        settle[op.verb](item)
        number = number + 1
      end
    end
    if op.verb == 'leave' then
      local left = pending(op, '-', '+', 1, op.consumer)
      if not is_error(left) and #left == 0 then
        redis.call('XGROUP', 'DELCONSUMER', op.stream, op.group, op.consumer)
      end
    end
    return {'ok', number}
  end

  for _, key in ipairs({op.stream, op.dead}) do
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'none' and kind ~= 'stream' then
      return {'corrupt', 'a ' .. kind .. ', not a stream', key}
    end
  end
  return (verbs[op.verb] or settled)()
end
