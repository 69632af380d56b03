-- purpose: remove expired records, a bounded number
-- keys: the expired records, the keys beside them, the index keys their manifests name, $Class, $Man, $Exp
-- args: none
-- reply: ok swept more (1 when more are waiting)
-- include: lib/clock.lua
-- include: lib/expiry.lua

operations.sweep = function(call, op, model)
  local more, swept = sweep_due(model, now_of(call), SWEEP)
  return {'ok', swept, more and 1 or 0}
end
