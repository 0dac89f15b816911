defmodule BilldogEng.Terms.ModuleName do
  @moduledoc false

  # Returns a module's name as `inspect/1` prints it, which alone takes longer than a capture.
  def shown(module) when is_atom(module) do
    case Atom.to_string(module) do
      "Elixir." <> name -> name
      name -> ":" <> name
    end
  end
end
