[
  inputs: ["{mix,.formatter}.exs", "{lib,test,bin,bench}/**/*.{ex,exs}"],
  line_length: 110
]
