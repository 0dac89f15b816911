# Fails where a text uses a word that this project replaces by a standard term. One term per concept: see CONTRIBUTING.md.
#
#     elixir bin/words.exs            prints each finding as FILE:LINE: found -> write instead
defmodule Words do
  # {pattern, what to write instead}
  @words [
    {~r/\b(gives?|given|gave|giving) up\b/i, "drops, dropped"},
    {~r/\blets? go of\b/i, "drops"},
    {~r/\b(tells?|told|telling)\b/i, "reports, logs, shows, names"},
    {~r/\b(says?|said)\b/i, "reports, logs, states, shows"},
    {~r/\banswers (an?\b|one\b|nil\b|true\b|false\b|`|:|\{)/i, "returns"},
    {~r/\btidings\b/i, "updates"},
    {~r/\bnews\b/i, "notices, updates"},
    {~r/\b(nobody's|of nobody|of whom|whose it is)\b/i, "anonymous; the user, the distinct ID"},
    {~r/\bobeys?\b/i, "handles"},
    {~r/\bstands? (back|above|beneath)\b/i, "runs at low priority; overrides, defaults to"},
    {~r/\bhal(ve|ves|ved|ving)\b/i, "split"},
    {~r/\bdamaged?\b/i, "corrupted"},
    {~r/\b(forsakes?|forsaken|heard)\b/i, "detaches, cancels; handled"},
    {~r/(^|[.:] |# |\/\/ )(What|Whose|Whom|Who|That which) (?!.*\?)/,
     "a sentence that starts with its subject"}
  ]
  @files ~w(lib/**/*.ex mix/**/*.exs native/*/src/**/*.rs native/*/tests/*.rs bench/**/*.{ex,exs,c,rs} test/**/*.{ex,exs}
            guides/*.md *.md bin/* .ci/* mix.exs)
  # This list itself, licenses, and the wire's fixtures.
  @except ~w(bin/words.exs THIRD-PARTY-LICENSES test/fixtures/wire.exs)

  def main do
    findings =
      for glob <- @files,
          path <- Path.wildcard(glob, match_dot: true),
          path not in @except and File.regular?(path),
          {line, number} <- path |> File.read!() |> String.split("\n") |> Enum.with_index(1),
          # The table of these words.
          not (path == "CONTRIBUTING.md" and String.starts_with?(line, "| ")),
          {pattern, instead} <- @words,
          [found | _] <- [Regex.run(pattern, line)],
          do: "#{path}:#{number}: #{inspect(String.trim(found))} -> #{instead}"

    Enum.each(findings, &IO.puts/1)
    System.halt(if findings == [], do: 0, else: 1)
  end
end

Words.main()
