-- purpose: how the values of conditions compare
-- defines: verdicts, comparisons, comparable
-- include: lib/bytes.lua
-- include: lib/decimal.lua

-- What the comparison of a value with an operand has to give.
local verdicts = {
  eq = function(sign) return sign == 0 end,
  ne = function(sign) return sign ~= 0 end,
  lt = function(sign) return sign < 0 end,
  le = function(sign) return sign <= 0 end,
  gt = function(sign) return sign > 0 end,
  ge = function(sign) return sign >= 0 end,
}
local comparisons = {number = decimal.compare, text = bytes.compare, bytes = bytes.compare}

-- A stored text if it can be compared; false for none, and for what should be a number and is not.
local function comparable(kind, text)
  return text and (kind ~= 'number' or decimal.is_number(text)) and text
end
