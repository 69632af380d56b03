-- purpose: exact arithmetic on the texts of numbers, which may be too long or too fine for a double
-- defines: decimal, float_text
-- include: lib/bytes.lua

local decimal = {}

-- Operands further from 1 than this many powers of ten are not written out.
local FARTHEST_EXPONENT = 400
-- Digits of the longest sum: Python reads no longer ones.
local LONGEST = 4300
-- Digits of one limb: sums of two limbs stay far below 2^53.
local LIMB = 14
local BASE = 10 ^ LIMB
local LIMB_FORMAT = '%0' .. LIMB .. '.0f'

-- The shortest text of 15 to 17 significant digits that reads back as the same double.
local function float_text(x)
  for precision = 15, 16 do
    local text = string.format('%.' .. precision .. 'g', x)
    if tonumber(text) == x then
      return text
    end
  end
  return string.format('%.17g', x)
end

-- The digits before and after the point and the power of ten they are to be multiplied by; nil for inf.
local function digits_of(text)
  local mantissa, exponent = text:match('^(.-)[eE]([+-]?%d+)$')
  local sign, whole, fraction = (mantissa or text):match('^([+-]?)(%d*)%.?(%d*)$')
  if not sign or whole .. fraction == '' then
    return nil
  end
  return {negative = sign == '-', whole = whole, fraction = fraction, exponent = tonumber(exponent or 0)}
end

-- ±0.DIGITS × 10^point, without zeros at either end of DIGITS; sign is -1, 0 or 1.
local function normal_form(text)
  local number = digits_of(text)
  if not number then
    return {sign = text:sub(1, 1) == '-' and -1 or 1, digits = '', point = math.huge}
  end
  local leading, digits = (number.whole .. number.fraction):match('^(0*)(.*)$')
  digits = digits:match('^(.-)0*$')
  if digits == '' then
    return {sign = 0, digits = '', point = 0}
  end
  return {sign = number.negative and -1 or 1, digits = digits, point = #number.whole - #leading + number.exponent}
end

local function compare_normal_forms(a, b)
  if a.sign ~= b.sign then
    return a.sign < b.sign and -1 or 1
  elseif a.point ~= b.point then
    return a.point < b.point and -a.sign or a.sign
  end
  return a.sign * bytes.compare(a.digits, b.digits)
end

-- Whether a text is a number; inf is one, nan and what only Lua takes for one (0x10) are none.
function decimal.is_number(text)
  local x = tonumber(text)
  return x ~= nil and x == x and not text:find('[xX]')
end

-- -1, 0 or 1, of numbers. Rounding to a double keeps the order, so only numbers that share a double are looked at closely.
function decimal.compare(a, b)
  local x, y = tonumber(a), tonumber(b)
  if x ~= y then
    return x < y and -1 or 1
  elseif a == b then
    return 0
  end
  return compare_normal_forms(normal_form(a), normal_form(b))
end

-- The number without an exponent: its digits before and after the point.
local function written_out(text)
  local number = digits_of(text)
  if not number or math.abs(number.exponent) > FARTHEST_EXPONENT then
    return nil
  end
  local whole, fraction, shift = number.whole, number.fraction, number.exponent
  if shift > 0 then
    fraction = fraction .. ('0'):rep(shift - #fraction)
    whole, fraction = whole .. fraction:sub(1, shift), fraction:sub(shift + 1)
  elseif shift < 0 then
    whole = ('0'):rep(-shift - #whole) .. whole
    whole, fraction = whole:sub(1, shift - 1), whole:sub(shift) .. fraction
  end
  return {negative = number.negative, whole = whole, fraction = fraction}
end

-- a + b or a - b, for digits of equal length; a difference must not be negative.
local function combine(a, b, direction)
  local limbs, carry = {}, 0
  for last = #a, 1, -LIMB do
    local sum = tonumber(a:sub(last - LIMB + 1, last)) + direction * tonumber(b:sub(last - LIMB + 1, last)) + carry
    carry = math.floor(sum / BASE)
    table.insert(limbs, 1, string.format(LIMB_FORMAT, sum - carry * BASE))
  end
  return table.concat(limbs)
end

local function plain_text(negative, whole, fraction)
  whole = whole:match('^0*(%d+)$') or '0'
  local text = fraction == '' and whole or whole .. '.' .. fraction
  return negative and text:find('[1-9]') and '-' .. text or text
end

-- The exact sum, with as many digits after the point as the operand that has more; nil if one is too far off, or
-- it would be too long.
function decimal.add(a, b)
  local left, right = written_out(a), written_out(b)
  if not left or not right then
    return nil
  end
  local places = math.max(#left.fraction, #right.fraction)
  local length = math.max(#left.whole, #right.whole) + places + 1
  if length > LONGEST then
    return nil
  end
  length = math.ceil(length / LIMB) * LIMB
  local function aligned(number)
    local digits = number.whole .. number.fraction .. ('0'):rep(places - #number.fraction)
    return ('0'):rep(length - #digits) .. digits
  end
  local more, less, negative = aligned(left), aligned(right), left.negative
  local opposed = left.negative ~= right.negative
  if opposed and bytes.less(more, less) then
    more, less, negative = less, more, right.negative
  end
  local digits = combine(more, less, opposed and -1 or 1)
  return plain_text(negative, digits:sub(1, length - places), digits:sub(length - places + 1))
end

-- The one text of all texts of a number: plain digits without zeros at their end, or for far-off numbers digits and an
-- exponent. The client's codec makes the same.
function decimal.token(text)
  local number = normal_form(text)
  local exponent = number.point - #number.digits
  if number.point == math.huge then
    return text
  elseif exponent <= -FARTHEST_EXPONENT or number.point > FARTHEST_EXPONENT then
    return (number.sign < 0 and '-' or '') .. number.digits .. 'E' .. string.format('%.0f', exponent)
  end
  local whole = number.digits:sub(1, math.max(0, number.point)) .. ('0'):rep(exponent)
  local fraction = ('0'):rep(-number.point) .. number.digits:sub(math.max(0, number.point) + 1)
  return plain_text(number.sign < 0, whole, fraction)
end
