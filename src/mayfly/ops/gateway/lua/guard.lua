-- The first thing that happens to a request: in the one global rule, before every route's plugins.
-- SECRET, REQUEST_ID and OF_THE_CALLER are written above by `mayfly gateway render`.
return function(conf, ctx)
  local core = require("apisix.core")

  -- Whatever the gateway says about a request, nobody else may have said before it.
  for _, name in ipairs(OF_THE_CALLER) do
    core.request.set_header(ctx, name, nil)
  end

  -- A sane id of the caller's is kept, exactly once; else the plugin request-id makes one.
  local id = core.request.header(ctx, "X-Request-Id")
  if type(id) ~= "string" or not ngx.re.find(id, REQUEST_ID, "jo") then
    id = nil
  end
  core.request.set_header(ctx, "X-Request-Id", id)

  -- Routes are chosen by the normalised path, the API gets the raw one: so they must be the same.
  local path = ngx.re.match(ngx.var.request_uri, [[\A[^?#]*]], "jo")[0]
  if ngx.re.find(path, [[//|/\.{1,2}(/|\z)|%2e|%2f|%5c|\\]], "ijo") then
    return 400, {message = "the path is not in normal form"}
  end

  -- API servers answer nobody who does not send this. It is last: a gateway that has lost any of
  -- the above has lost this as well, and reaches nothing.
  core.request.set_header(ctx, "X-Mayfly-Gateway", SECRET)
end
