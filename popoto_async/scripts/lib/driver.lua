-- purpose: what else the members of a source have to pass
-- defines: driver
-- include: lib/tree.lua

local driver = {}

-- A source with what its members have to pass.
function driver.source(source)
  source.tests, source.excepts = source.tests or {}, {}
  return source
end

-- Adds conditions, all but one that the source satisfies by itself, before those it has: its own may read records.
function driver.add_tests(source, nodes, satisfied)
  local tests = {}
  for _, node in ipairs(nodes) do
    if node ~= satisfied then
      tests[#tests + 1] = node
    end
  end
  for _, node in ipairs(source.tests) do
    tests[#tests + 1] = node
  end
  source.tests = tests
end

-- The look-ups that a member of a source takes at most.
function driver.weight(source)
  local weight = 0
  for _, nodes in ipairs({source.tests, source.excepts}) do
    for _, node in ipairs(nodes) do
      weight = weight + node.weight
    end
  end
  return weight
end

-- The members of a source that count.
function driver.filter(source, members, view)
  for _, node in ipairs(source.tests) do
    members = later.filter(node, members, view)
  end
  if #source.excepts > 0 then
    members = later.filter({t = 'not', n = {t = 'or', n = source.excepts}}, members, view)
  end
  return members
end
