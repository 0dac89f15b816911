# Writes the list of options in guides/configuration.md from lib/billdogeng/client/options/schema.ex.
#
#     mix run bin/options.exs
alias BilldogEng.Client.Options.Docs

path = Docs.guide_path()
File.write!(path, path |> File.read!() |> Docs.put_into_guide())
