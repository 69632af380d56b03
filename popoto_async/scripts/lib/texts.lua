-- purpose: which texts begin with, end with or contain another
-- defines: texts
-- include: lib/tails.lua

local texts = {}

local function character(code)
  return string.char(tonumber(code, 16))
end

-- The text that was escaped.
local function unescaped(text)
  return text:find('%', 1, true) and (text:gsub('%%(%x%x)', character)) or text
end

-- The part of a record key: the number-th, escaped, after the model's name.
function texts.part(key, base, number)
  local first = #base + 1
  for _ = 2, number do
    first = key:find(':', first, true) + 1
  end
  return key:sub(first, (key:find(':', first, true) or 0) - 1)
end

local agrees = {
  starts = function(text, other) return text:sub(1, #other) == other end,
  ends = function(text, other) return text:sub(-#other) == other end,
  has = function(text, other) return text:find(other, 1, true) ~= nil end,
}

-- Whether a text, false for null, begins with, ends with or contains that of a node, which is not empty.
function texts.holds(node, text)
  return text and agrees[node.op](text, node.v)
end

-- The same of an escaped text.
function texts.holds_escaped(node, escaped)
  return escaped ~= NULL and agrees[node.op](unescaped(escaped), node.v)
end
