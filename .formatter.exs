asserts = for name <- [:assert_captured, :refute_captured], arity <- 1..3, do: {name, arity}

[
  inputs: ["{mix,.formatter}.exs", "{lib,mix,test,bin,bench}/**/*.{ex,exs}"],
  line_length: 110,
  locals_without_parens: asserts,
  export: [locals_without_parens: asserts]
]
