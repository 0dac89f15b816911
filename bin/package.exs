# The script behind bin/package. Run by `elixir`, not by `mix run`: a package is made of files, and nothing is compiled for it.

Mix.start()
Code.compile_file("mix.exs")
config = Mix.Project.config()
version = config[:version]

# Of the registry, for a package: 16 MiB, and 128 MiB before gzip.
most = 16 * 1024 * 1024
most_unpacked = 128 * 1024 * 1024

fail = fn message ->
  IO.puts(:stderr, "bin/package: " <> message)
  System.halt(1)
end

# A pattern names files, and folders with all that is below.
matches = fn pattern ->
  pattern
  |> Path.wildcard()
  |> Enum.flat_map(&[&1 | Path.wildcard(Path.join(&1, "**"), match_dot: true)])
  |> Enum.filter(&File.regular?/1)
end

# Made by a script, so a checkout may be without.
made = %{"native/prebuilt" => "its users need Rust; bin/nif packs ready-made libraries"}

files =
  for pattern <- config[:package][:files], reduce: [] do
    files ->
      case {matches.(pattern), made[pattern]} do
        {[], nil} -> fail.("#{pattern}, which mix.exs lists, is nowhere")
        {[], why} -> IO.puts("bin/package: warning: no #{pattern} in this package: #{why}")
        _ -> :ok
      end

      files ++ matches.(pattern)
  end

files = files |> Enum.uniq() |> Enum.sort()

for path <- files, String.starts_with?(path, "native/prebuilt/") do
  unless Path.basename(path) =~ "billdogeng-#{version}-nif-",
    do: fail.("#{path} isn't of version #{version}: delete it, or it is in every user's deps")
end

# The same bytes from the same files, whoever packs them and when. The time is one that no tool takes for "none".
long_ago = 946_684_800
times = for name <- ~w(mtime atime ctime)a, do: {name, long_ago}
tarball = "_build/package/billdogeng-#{version}.tar.gz"
File.mkdir_p!(Path.dirname(tarball))
{:ok, tar} = :erl_tar.open(String.to_charlist(tarball), [:write, :compressed])

for path <- files do
  :ok = :erl_tar.add(tar, File.read!(path), String.to_charlist(path), [uid: 0, gid: 0] ++ times)
end

:ok = :erl_tar.close(tar)

packed = File.stat!(tarball).size
unpacked = files |> Enum.map(&File.stat!(&1).size) |> Enum.sum()
Enum.each(files, &IO.puts/1)
IO.puts("#{tarball}: #{length(files)} files, #{unpacked} bytes, packed #{packed}")

if packed > most or unpacked > most_unpacked,
  do: fail.("a registry takes at most #{most}, before gzip #{most_unpacked}")
