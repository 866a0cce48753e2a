-- After the token check: whose token it is, as the key of the limits by user.
-- SUBJECT is written above by `mayfly gateway render`.
return function(conf, ctx)
  local payload = ctx.jwt_auth_payload
  local subject = type(payload) == "table" and payload.sub
  if type(subject) ~= "string" or not ngx.re.find(subject, SUBJECT, "jo") then
    return 401, {message = "the token has no usable sub"}
  end
  ctx.var.mayfly_sub = subject
end
