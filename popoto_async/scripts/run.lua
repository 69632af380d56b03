-- purpose: every operation, writing ones included
-- keys: the class key of the first operation; all others share its hash tag
-- args: the header, then the values it refers to
-- reply: time in µs or false, outcomes (false: ok, with nothing to tell; the time alone, where all are) | refused | unknown

local operations = {}
-- include: lib/main.lua
-- operations: save push delete load fetch select+matching expire+sweep transaction group publish
-- operations: save_referred+rewrite+erase audit+members+tell+weigh+behind+mend+prune+mark

-- How long a lane's last outcomes are remembered, in s: longer than any call is resent.
local LANE_TTL = '3600'
-- Digits of a sequence number, so that two compare as texts.
local DIGITS = 16

-- A sequence that was answered gets the same answers; an earlier one comes too late. Remembered are the outcomes of
-- writes that are not the usual one, by the number of the operation.
local stored, known_slots = unpack(redis.call('MGET', lane, models[1].slots))
local answered
if stored then
  local last = stored:sub(1, DIGITS)
  if last > seq then
    return {'refused'}
  elseif last == seq then
    answered = #stored > DIGITS and cmsgpack.unpack(stored:sub(DIGITS + 1)) or {}
  end
elseif resend then
  return {'unknown'}
end

-- Most calls are about a model whose slots are as they are known here, and of which nothing can be due.
local first = models[1]
if (known_slots or '') == first.text and redis.call('EXISTS', first.exp, first.man, first.alias) == 0 then
  first.ready, bare[first.class] = true, true
end

-- An operation that is the same for several records names them in `each`; of its values, `width` belong to each of them.
-- One that returns nothing is done and has nothing to tell.
-- Behind one that has to be planned again, all are held, so that what was asked first is done first.
local AGAIN = {slots = true, moved = true, due = true, held = true}
local number, told, remembered, held = 0, false, nil, nil
for i = 1, #ops do
  local op = ops[i]
  local model, each = models[op.m or 1], op.each
  op.at = op.at or 2
  for j = 1, each and #each or 1 do
    op.key = each and each[j] or op.key
    number = number + 1
    local again = answered and not op.reads
    local outcome = again and answered[number]
    if held and not again then
      outcome = {'held'}
    elseif not again and (op.ops or not model.ready) then
      -- include: lib/refusal.lua
      outcome = refused(call, op, model)
    end
    if not (again or outcome) then
      blamed = false
      for last = #undo, 1, -1 do
        undo[last] = nil
      end
      local done, result = pcall(operations[op.op], call, op, model)
      if not done then
        -- include: lib/failure.lua
        rollback()
        result = failure(result)
      end
      outcome = result
    end
    if outcome then
      told = true
      held = held or AGAIN[outcome[1]]
      if not op.reads then
        remembered = remembered or {}
        remembered[number] = outcome
      end
    end
    reply[number + 1] = outcome or false
    op.at = op.at + (op.width or 0)
  end
end
if not answered then
  local kept = seq .. (remembered and cmsgpack.pack(remembered) or '')
  local done = redis.pcall('SETEX', lane, LANE_TTL, kept)
  if done.err and done.err:find('READONLY', 1, true) then
    return done  -- a replica: none of this was done, and another server may be the one to ask
  end
end
return told and reply or reply[1]
