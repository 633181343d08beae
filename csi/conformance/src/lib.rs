//! What the CSI specification demands and drivers get wrong, as cases over any running plugin.
//!
//! A case is a function over a [`Target`] that fails with what the plugin did wrong. Nothing is known here of how the plugin works: the
//! same cases run over ports in memory and over the whole of it. [`for_each_case`] names every case once.
//!
//! Numbers (`t09`) are those of the list of rules; not here is what can only be seen with a real device under the plugin, or by
//! stopping it between two steps.
#![forbid(unsafe_code)]

pub mod capacity;
pub mod creation;
pub mod existing;
pub mod expect;
pub mod identity;
pub mod lists;
pub mod publishing;
pub mod request;
pub mod required;
pub mod staging;
pub mod steps;
pub mod target;
pub mod unadvertised;

pub use target::Target;

/// Hands `module::case` of every case, in a list with commas, to a macro of the caller's.
#[macro_export]
macro_rules! for_each_case {
    ($with:ident) => {
        $with! {
            required::t01_controller_calls_without_required_fields_are_wrong,
            required::t01_node_calls_without_required_fields_are_wrong,
            required::t33_strings_and_maps_have_limits,
            creation::t02_the_same_volume_is_made_once,
            creation::t02_ten_callers_at_once_make_one_volume,
            creation::t03_another_volume_of_the_same_name_is_refused,
            creation::t04_a_replay_gets_the_volume_whose_caller_left,
            creation::t06_content_sources_are_refused,
            creation::t09_no_room_is_resource_exhausted,
            creation::t10_names_are_any_text,
            creation::t11_unknown_and_malformed_volumes_are_deleted,
            creation::t11_a_volume_in_use_is_not_deleted,
            creation::t23_unknown_parameters_are_refused,
            creation::multi_node_file_systems_are_refused_wherever_they_stand,
            capacity::t05_sizes_are_within_what_is_asked,
            capacity::t05_what_is_possible_is_said,
            capacity::t21_volumes_grow_and_never_shrink,
            capacity::t22_a_staged_file_system_grows,
            existing::t15_capabilities_are_confirmed_or_not,
            existing::t20_unknown_volumes_are_not_found,
            existing::t20_a_volume_is_described_as_it_was_made,
            existing::t23_attributes_are_changed_all_or_none,
            lists::t16_tokens_of_others_are_aborted,
            lists::t16_a_page_goes_on_after_its_last_volume_was_deleted,
            lists::t20_health_is_known_of_every_volume,
            staging::t24_staging_again_is_the_same,
            staging::t24_another_capability_at_the_same_path_is_refused,
            staging::t24_unknown_volumes_and_capabilities_are_refused,
            staging::t29_what_is_not_there_is_unstaged_and_unpublished,
            staging::t30_stats_are_of_what_is_there,
            publishing::t25_blocks_are_files_and_file_systems_directories,
            publishing::t26_a_volume_is_staged_before_it_is_published,
            publishing::t27_the_same_target_is_the_same_publication,
            publishing::t27_one_path_or_several,
            identity::t31_the_node_says_where_it_is,
            identity::t32_a_plugin_that_is_ready_says_so,
            identity::t33_only_what_works_is_advertised,
            unadvertised::t07_t08_t12_t17_t18_t19_there_are_no_snapshots,
            unadvertised::t13_t14_there_is_no_attach_step,
            unadvertised::t34_there_are_no_groups,
            unadvertised::t35_there_is_no_snapshot_metadata,
        }
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    const SOURCES: [(&str, &str); 9] = [
        ("capacity", include_str!("capacity.rs")),
        ("creation", include_str!("creation.rs")),
        ("existing", include_str!("existing.rs")),
        ("identity", include_str!("identity.rs")),
        ("lists", include_str!("lists.rs")),
        ("publishing", include_str!("publishing.rs")),
        ("required", include_str!("required.rs")),
        ("staging", include_str!("staging.rs")),
        ("unadvertised", include_str!("unadvertised.rs")),
    ];

    macro_rules! listed {
        ($($module:ident::$case:ident,)*) => {
            BTreeSet::from([$(concat!(stringify!($module), "::", stringify!($case)).to_owned(),)*])
        };
    }

    #[test]
    fn every_case_is_listed() {
        let listed = for_each_case!(listed);
        let written: BTreeSet<String> = SOURCES
            .iter()
            .flat_map(|(module, text)| {
                let names = text.lines().filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next());
                names.map(move |name| format!("{module}::{name}"))
            })
            .collect();
        assert_eq!(written, listed);
    }
}
