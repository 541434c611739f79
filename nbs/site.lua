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

-- On a phone, cells that hold sentences keep a width at which they can be read
local function sentences(grid)
  local bodies = grid.bodies
  for _, body in ipairs(bodies) do
    for _, row in ipairs(body.body) do
      for _, cell in ipairs(row.cells) do
        local long = #pandoc.utils.stringify(cell.contents) > 60
        if long then cell.contents = {pandoc.Div(cell.contents, pandoc.Attr("", {"sentence"}))} end
      end
    end
  end
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

local function fold(cell)
  local code = cell.content[1]
  if not code or code.t ~= "CodeBlock" or not code.classes:includes("cell-code") then return nil end
  local drawn = cell.identifier:match("^cell%-fig%-") and not code.attributes["code-fold"]
  local summary = imports_only(code.text) and "Imports" or drawn and "Code of the figure"
  if not summary then return nil end
  code.attributes["code-fold"], code.attributes["code-summary"] = "true", summary
  return cell
end

-- nbdev links names of the library, in the text of a link too: [[`name`](its page)](the link)
local function unnested(link)
  local first, code = link.content[1], link.content[2]
  local nested = code and code.t == "Code" and first.t == "Str" and first.text == "["
  if nested then link.content = {code} end
  link.target = nearby(link.target)
  return link
end

function Pandoc(doc)
  if not FORMAT:match("html") then return nil end
  terms, names = glossary()
  known, seen = papers(), {}
  visit(doc.blocks)
  return doc:walk{
    Div = fold,
    Table = sentences,
    Link = unnested,
    Image = function(image) image.src = nearby(image.src); return image end,
  }
end
