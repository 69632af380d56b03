-- purpose: every operation, writing ones included
-- keys: the class key of the first operation; all others share its hash tag
-- args: the header, then the values it refers to
-- reply: time in µs, outcomes | refused | unknown

local operations = {}
-- include: lib/main.lua
-- include: lib/slots.lua
-- include: lib/due.lua
-- operations: save push delete load fetch select+matching expire+sweep transaction group publish
-- operations: save_referred+rewrite+erase audit+members+tell+weigh+behind+mend+prune+mark

-- How long a lane's last outcomes are remembered, in ms: longer than any call is resent.
local LANE_TTL = '3600000'
-- Digits of a sequence number, so that two compare as texts.
local DIGITS = 16

local reads = {load = true, select = true, fetch = true, audit = true, members = true, tell = true, weigh = true,
  behind = true}
local call = begun()

-- A sequence that was answered gets the same answers; an earlier one comes too late.
local stored = redis.call('GET', call.lane)
local answered
if stored then
  local last = stored:sub(1, DIGITS)
  if last > call.seq then
    return {'refused'}
  elseif last == call.seq then
    answered = cmsgpack.unpack(stored:sub(DIGITS + 1))
  end
elseif call.resend == 1 then
  return {'unknown'}
end

-- A model is made ready once in a call: its slots compared, what is due of it swept.
local function make_ready(model)
  model.ready = true
  local done, reason = pcall(function()
    model.refusal = slots_differ(model)
    model.due = not model.refusal and has_due(model, call.now) and operations.sweep(call, {}, model)[3] == 1
  end)
  if not done then
    model.refusal = failure(reason)
  end
end

local function refusal(model)
  if not model.ready then
    make_ready(model)
  end
  return model.refusal
end

-- A transaction is refused as a whole, and says for which of its operations.
local function outcome_of(op)
  local model = model_of(call, op)
  local outcome = refusal(model) or (model.due and reads[op.op] and {'due'})
  if op.ops then
    for i, step in ipairs(op.ops) do
      local refused = refusal(model_of(call, step))
      outcome = outcome or (refused and {'failed', i, refused})
    end
  end
  return outcome or run_operation(call, op, model)
end

local outcomes, remembered = {}, {}
for i, op in ipairs(call.ops) do
  local outcome = answered and answered[i] or outcome_of(op)
  outcomes[i], remembered[i] = outcome, not reads[op.op] and outcome
end
if not answered then
  local kept = redis.pcall('SET', call.lane, call.seq .. cmsgpack.pack(remembered), 'PX', LANE_TTL)
  if is_error(kept) and kept.err:find('READONLY', 1, true) then
    return kept  -- a replica: none of this was done, and another server may be the one to ask
  end
end
return {call.time, outcomes}
