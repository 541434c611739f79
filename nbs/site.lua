-- What Quarto does with each page: terms and papers say what they are where a pointer or the
-- keyboard rests on them, and links into the site lead to its pages as they are built.
local SITE = "https://tinyrope.github.io/tinyrope/"
local IMAGES = "https://raw.githubusercontent.com/tinyrope/tinyrope/main/nbs/images/"

local function read(name)
  local here = pandoc.path.directory(PANDOC_SCRIPT_FILE)
  local path = quarto and quarto.utils.resolve_path(name) or pandoc.path.join{here, name}
  local file = assert(io.open(path, "r"), "the filter needs " .. path)
  local text = file:read("a")
  file:close()
  return text
end

local function plain(markdown)
  return pandoc.utils.stringify(pandoc.read(markdown, "markdown-smart"))
end

-- The rows of the tables in the prose of a notebook, as two cells: terms, and their meaning
local function rows(notebook)
  local found = {}
  local decode = quarto and quarto.json.decode or pandoc.json.decode
  for _, cell in ipairs(decode(read(notebook)).cells) do
    local source = cell.source
    if type(source) == "table" then source = table.concat(source) end
    if cell.cell_type ~= "markdown" then source = "" end
    for first, second in source:gmatch("\n| ([^|\n]*) | ([^|\n]*) |") do
      local head = second == "meaning" or first:match("^%-+$")
      if not head then table.insert(found, {first, second}) end
    end
  end
  return found
end

-- term → {its number, its meaning}: words from the glossary, names of the code from 00_rope
local function glossary()
  local terms, names = {}, {}
  for i, row in ipairs(rows("glossary.ipynb")) do
    for term in (row[1] .. ", "):gmatch("(.-), ") do terms[term] = {i, plain(row[2])} end
  end
  for i, row in ipairs(rows("00_rope.ipynb")) do
    for name in row[1]:gmatch("`([%w_]+)`") do
      if #name > 2 then names[name] = {"name " .. i, plain(row[2])} end
    end
  end
  return terms, names
end

-- "Su, Jianlin and Lu, Yu and others" → "Su et al."
local function who(authors)
  local names = {}
  for name in (authors .. " and "):gmatch("(.-) and ") do
    table.insert(names, name:match("^[^,]+"))
  end
  return #names > 2 and names[1] .. " et al." or table.concat(names, " and ")
end

-- address → what a reader has to know of a paper, from references.bib
local function papers()
  local found = {}
  for entry in read("references.bib"):gmatch("@%w+(%b{})") do
    local field = {}
    for name, value in entry:gmatch("(%w+) = (%b{})") do field[name] = value:gsub("[{}]", "") end
    found[field.url] = who(field.author) .. " (" .. field.year .. "). " .. field.title .. "."
  end
  return found
end

local terms, names, known, seen

local function explained(content, meaning)
  local said = {role = "term", tabindex = "0", ["aria-description"] = meaning}
  return pandoc.Span(content, pandoc.Attr("", {"term"}, said))
end

-- The longest term, not yet explained on this page, that begins at a place in a list of inlines
local function find(inlines, first)
  local said, best = "", nil
  for last = first, math.min(first + 4, #inlines) do
    local inline = inlines[last]
    if inline.t == "Str" then
      said = said .. inline.text
      local before, word, after = said:match("^([%(%[]?)(.-)([%p]*)$")
      local found = terms[word] or terms[word:gsub("^%u", string.lower)]
      if found and not seen[found[1]] then best = {last, before, word, after, found} end
    elseif inline.t == "Space" or inline.t == "SoftBreak" then said = said .. " "
    else break end
  end
  return best
end

local mark                                          -- refers to itself, for emphasised text

local function mark_one(inline)
  if inline.t == "Code" then
    local found = names[inline.text]
    if found and not seen[found[1]] then
      seen[found[1]] = true
      return explained({inline}, found[2])
    end
  elseif inline.t == "Link" then
    local paper = known[inline.target]
    if paper then inline.classes, inline.attributes["aria-description"] = {"paper"}, paper end
  elseif inline.t == "Emph" or inline.t == "Strong" or inline.t == "Quoted" then
    inline.content = mark(inline.content)
  end
  return inline
end

function mark(inlines)
  local made, i = pandoc.List(), 1
  while i <= #inlines do
    local found = inlines[i].t == "Str" and find(inlines, i)
    if found then
      local last, before, word, after, term = table.unpack(found)
      seen[term[1]] = true
      if before ~= "" then made:insert(pandoc.Str(before)) end
      made:insert(explained({pandoc.Str(word)}, term[2]))
      if after ~= "" then made:insert(pandoc.Str(after)) end
      i = last + 1
    else
      made:insert(mark_one(inlines[i]))
      i = i + 1
    end
  end
  return made
end

-- Prose is marked; headings, tables, code and quotations are left as they are
local function visit(blocks)
  for _, block in ipairs(blocks) do
    if block.t == "Para" or block.t == "Plain" then block.content = mark(block.content)
    elseif block.t == "Div" then visit(block.content)
    elseif block.t == "BulletList" or block.t == "OrderedList" then
      for _, item in ipairs(block.content) do visit(item) end
    end
  end
end

local function nearby(address)
  if address:sub(1, #SITE) == SITE then return address:sub(#SITE + 1) end
  if address:sub(1, #IMAGES) == IMAGES then return "images/" .. address:sub(#IMAGES + 1) end
  return address
end

-- On a phone, tables of texts are read row by row, each cell below the name of its column;
-- in wide tables, cells that hold sentences keep a width at which they can be read
local MOST_STACKED, TEXT, SENTENCE = 6, 30, 60      -- columns, characters, characters

local function length(cell) return #pandoc.utils.stringify(cell.contents) end

local function names_of_columns(grid)
  local names = {}
  for _, row in ipairs(grid.head.rows) do
    for i, cell in ipairs(row.cells) do names[i] = pandoc.utils.stringify(cell.contents) end
  end
  return names
end

local function each_cell(bodies, act)
  for _, body in ipairs(bodies) do
    for _, row in ipairs(body.body) do
      for i, cell in ipairs(row.cells) do act(cell, i) end
    end
  end
end

-- Columns of numbers end at the right, so that their digits stand below each other
local function is_number(text)
  local plain_text = text:gsub("[\xc2-\xf4][\x80-\xbf]+", "")           -- ×, ±, − and the like
  return plain_text:match("%d") and not plain_text:match("[^%d%s.,%%+/%[%]()-]")
end

local function numbers_right(grid)
  local numeric, specs = {}, grid.colspecs
  each_cell(grid.bodies, function(cell, i)
    local text = pandoc.utils.stringify(cell.contents)
    if text ~= "" and numeric[i] ~= false then numeric[i] = is_number(text) and true or false end
  end)
  for i, spec in ipairs(specs) do
    if i > 1 and numeric[i] and spec[1] == "AlignDefault" then spec[1] = "AlignRight" end
  end
  grid.colspecs = specs
end

-- A column that says nothing, such as the defaults of fields that have none, is left out
local function without_empty(grid)
  local said, specs, head, bodies = {}, grid.colspecs, grid.head, grid.bodies
  each_cell(bodies, function(cell, i) said[i] = said[i] or #cell.contents > 0 end)
  for i = #specs, 2, -1 do
    if said[i] == false then
      specs:remove(i)
      for _, row in ipairs(head.rows) do row.cells:remove(i) end
      for _, body in ipairs(bodies) do
        for _, row in ipairs(body.body) do row.cells:remove(i) end
      end
    end
  end
  grid.colspecs, grid.head, grid.bodies = specs, head, bodies
end

local function readable(grid)
  without_empty(grid)
  numbers_right(grid)
  local bodies, columns, longest = grid.bodies, names_of_columns(grid), -1
  each_cell(bodies, function(cell, i) longest = math.max(longest, i > 1 and length(cell) or 0) end)
  if longest < 0 then return {} end                 -- nothing below the head
  local stacked = #grid.colspecs <= MOST_STACKED and longest > TEXT
  each_cell(bodies, function(cell, i)
    local long = length(cell) > SENTENCE
    local named = i > 1 and #cell.contents > 0 and #grid.colspecs > 2
    local column = stacked and {{"column", named and columns[i] or ""}} or {}
    local attributes = pandoc.Attr("", long and {"sentence"} or {}, column)
    if stacked or long then cell.contents = {pandoc.Div(cell.contents, attributes)} end
  end)
  grid.bodies = bodies
  return grid
end

-- Imports, and the code that draws a figure, are folded: few read them, and all can
local function imports_only(code)
  for line in code:gmatch("[^\n]+") do
    local first = line:match("^%l+ ")
    local inside = line:match("^[%s%)]")
    if not inside and first ~= "import " and first ~= "from " then return false end
  end
  return true
end

-- What the solution of an exercise prints gives the answer away, so it is folded too
local function hide_answer(cell)
  if #cell.content < 2 then return end
  cell.content:insert(2, pandoc.RawBlock("html", "<details><summary>What it gives</summary>"))
  cell.content:insert(pandoc.RawBlock("html", "</details>"))
end

-- Does a text that was printed stand in columns?
local function in_columns(text)
  local rows = 0
  for line in text:gmatch("[^\n]+") do
    if line:match("%S  +%S") then rows = rows + 1 end
  end
  return rows > 1
end

local function fold(cell)
  local code = cell.content[1]
  if not code or code.t ~= "CodeBlock" then return nil end
  if cell.classes:includes("cell-output") and in_columns(code.text) then
    cell.classes:insert("aligned")
    return cell
  end
  if not code.classes:includes("cell-code") then return nil end
  if code.attributes["code-summary"] == "Solution" then hide_answer(cell) end
  local drawn = cell.identifier:match("^cell%-fig%-") and not code.attributes["code-summary"]
  local summary = imports_only(code.text) and "Imports" or drawn and "Code of the figure"
  if summary then code.attributes["code-fold"], code.attributes["code-summary"] = "true", summary
  elseif code.attributes["code-summary"] == "Exported source" then
    code.attributes["code-summary"] = "Source"
  end
  return cell
end

-- Folded cells that follow each other and show nothing are one
local function folded(cell)
  local code = cell and cell.t == "Div" and cell.classes:includes("cell") and cell.content[1]
  return code and code.t == "CodeBlock" and code.attributes["code-fold"] == "true" and code
end

local function joined(before, cell)
  local first, second = folded(before), folded(cell)
  if not first or not second or #before.content > 1 then return false end
  if first.attributes["code-summary"] ~= second.attributes["code-summary"] then return false end
  second.text = first.text .. "\n\n" .. second.text
  return true
end

-- nbdev links names of the library, in the text of a link too: [[`name`](its page)](the link),
-- private names, which have no place on a page, and of two with one name always the same
local here                                          -- the anchors of this page

local function mended(link)
  local first, code = link.content[1], link.content[2]
  local nested = code and code.t == "Code" and first.t == "Str" and first.text == "["
  if nested then link.content = {code} end
  link.target = nearby(link.target)
  local anchor = link.target:match("#([%w_]+)$")
  local said = #link.content == 1 and link.content[1].t == "Code" and link.content[1].text:lower()
  if here[anchor] and said == anchor then link.target = "#" .. anchor end
  local private = link.target:match("#_") and not link.target:match("://")
  return private and link.content or link
end

-- A signature is left out where the source of its function is open below it
local function open_below(blocks, i, name)
  for j = i + 1, math.min(i + 4, #blocks) do
    local block = blocks[j]
    if block.t == "Header" then return false end
    local code = block.t == "Div" and block.content[1]
    if code and code.t == "CodeBlock" then
      return code.attributes["code-fold"] == "show" and code.text:find(name .. "%f[^%w_]") ~= nil
    end
  end
  return false
end

-- nbdev emphasises the first line of a docstring, not its first sentence: all of it is meant
local function emphasised(para)
  if para.t ~= "Para" or #para.content < 2 or para.content[1].t ~= "Emph" then return para end
  local inlines = pandoc.Inlines(para.content[1].content)
  for i = 2, #para.content do inlines:insert(para.content[i]) end
  return pandoc.Para{pandoc.Emph(inlines)}
end

-- Is this block the docstring of a function: below its heading, or below its signature?
local function is_docstring(blocks, i)
  local j = i > 1 and blocks[i-1].t == "CodeBlock" and i - 2 or i - 1
  local source = j > 1 and blocks[j].t == "Header" and blocks[j-1].t == "Para" and blocks[j-1].content[1]
  return source and source.t == "Link" and pandoc.utils.stringify(source) == "source"
end

local function once(blocks)
  local kept = pandoc.Blocks{}
  for i, block in ipairs(blocks) do
    if is_docstring(blocks, i) then block = emphasised(block) end
    if joined(kept[#kept], block) then kept:remove() end
    local code = block.t == "CodeBlock" and i > 1 and blocks[i-1].t == "Header" and block.text
    local name = code and (code:match("^def [%w_]+") or code:match("^class [%w_]+"))
    if not (name and open_below(blocks, i, name)) then kept:insert(block) end
  end
  return kept
end

-- A number stays on the line of its sign: "± 0.1", "5 %"
local function kept_together(inlines)
  for i = 2, #inlines - 1 do
    local before, after = inlines[i-1].text or "", inlines[i+1].text or ""
    local with_sign = before == "±" or after == "±" or before:match("%d$") and after:match("^%%")
    if inlines[i].t == "Space" and with_sign then inlines[i] = pandoc.Str("\u{a0}") end
  end
  return inlines
end

-- Figures of one panel fit the width of a phone, wider ones scroll; short code is not broken
local ONE_PANEL, SHORT = 720, 22                    -- pixels, characters

local function image(img)
  img.src = nearby(img.src)
  local width = tonumber((img.attributes.width or ""):match("^%d+"))
  if width and width <= ONE_PANEL then img.classes:insert("one-panel") end
  return img
end

local function short(code)
  if #code.text <= SHORT then code.classes:insert("short") end
  return code
end

-- Quarto loads two libraries from elsewhere for outputs in HTML, and none of ours needs them
local function own_scripts(meta)
  local heads = meta["header-includes"]
  if heads then
    meta["header-includes"] = pandoc.List(heads):filter(function(head)
      local text = ""
      pandoc.Blocks(head):walk{RawBlock = function(raw) text = text .. raw.text end}
      return not text:find("require.min.js", 1, true)
    end)
  end
  return meta
end

function Pandoc(doc)
  if not FORMAT:match("html") then return nil end
  terms, names = glossary()
  known, seen, here = papers(), {}, {}
  doc:walk{Header = function(header) here[header.identifier] = true end}
  visit(doc.blocks)
  doc.meta = own_scripts(doc.meta)
  return doc:walk{
    Blocks = once,
    Div = fold,
    Table = readable,
    Link = mended,
    Inlines = kept_together,
    Image = image,
    Code = short,
  }
end
